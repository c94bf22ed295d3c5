import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.util.ArrayList;
import java.util.List;
import org.apache.hadoop.conf.Configurable;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hdfs.MiniDFSCluster;
import org.apache.hadoop.hdfs.MiniDFSNNTopology;
import org.apache.hadoop.hdfs.server.namenode.FSNamesystem;
import org.apache.hadoop.net.StandardSocketFactory;

/**
 * A real HDFS on loopback, for tests: one NameNode or a pair, and DataNodes.
 *
 *     Cluster directory=DIR http=PORT[,PORT] [datanodes=N] [format=false] [KEY=VALUE of Hadoop's configuration]...
 *
 * Two ports make a pair of NameNodes, the first one active. Prints "ready" when it serves. Then each line on standard
 * input is a command that is answered by one line, "ok ..." or "error ...":
 *
 *     active N            NameNode N serves, the other one stands by
 *     stop-namenode N
 *     stop-datanode N     the NameNode goes on believing in it; those after it move up by one
 *     safemode on|off
 *     rpc N                   "ok PORT" of NameNode N, for Hadoop's own clients
 *     quit                also at the end of standard input
 */
public final class Cluster {
    private final Configuration configuration = new Configuration();
    private final List<Integer> ports = new ArrayList<>();
    private int datanodes = 1;
    private int replication;
    private boolean format = true;
    private MiniDFSCluster cluster;

    private void take(String argument) {
        int equals = argument.indexOf('=');
        String name = argument.substring(0, equals);
        String value = argument.substring(equals + 1);
        switch (name) {
            case "directory" -> configuration.set(MiniDFSCluster.HDFS_MINIDFS_BASEDIR, value);
            case "datanodes" -> datanodes = Integer.parseInt(value);
            case "format" -> format = Boolean.parseBoolean(value);
            case "http" -> {
                for (String port : value.split(",")) {
                    ports.add(Integer.parseInt(port));
                }
            }
            default -> configuration.set(name, value);
        }
    }

    /** Each DataNode has an address of its own, as on machines of their own: NameNodes tell them apart by it. */
    private void startDataNode(int number) throws IOException {
        Configuration own = new Configuration(configuration);
        String address = "127.0.0." + (number + 1);
        own.setInt("dfs.replication", replication);
        own.set("dfs.datanode.hostname", address);
        own.set("dfs.datanode.address", address + ":0");
        own.set("dfs.datanode.http.address", address + ":0");
        own.set("dfs.datanode.ipc.address", address + ":0");
        if (!configuration.get("hadoop.security.authentication", "simple").equals("kerberos")) {
            own.set("hadoop.rpc.socket.factory.class.default", Sockets.class.getName()); // else Hadoop binds them by itself
            own.set(Sockets.ADDRESS, address);
        }
        cluster.startDataNodes(own, 1, null, true, null, null, null, null, null, false, true, true, null, null, null);
    }

    /** Sockets for Hadoop's calls that come from a DataNode's own address. */
    public static final class Sockets extends StandardSocketFactory implements Configurable {
        static final String ADDRESS = "cluster.address";
        private Configuration configuration;

        @Override
        public void setConf(Configuration given) {
            configuration = given;
        }

        @Override
        public Configuration getConf() {
            return configuration;
        }

        @Override
        public Socket createSocket() throws IOException {
            Socket socket = super.createSocket();
            socket.bind(new InetSocketAddress(configuration.get(ADDRESS), 0));
            return socket;
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof Sockets && ((Sockets) other).configuration.get(ADDRESS).equals(configuration.get(ADDRESS));
        }

        @Override
        public int hashCode() {
            return configuration.get(ADDRESS).hashCode();
        }
    }

    private void start(String[] arguments) throws Exception {
        configuration.setInt("dfs.replication", 1);
        configuration.setInt("dfs.namenode.safemode.extension", 0);
        configuration.setInt("dfs.ha.tail-edits.period", 1);
        configuration.setBoolean("dfs.namenode.delegation.token.always-use", true);
        for (String argument : arguments) {
            take(argument);
        }
        replication = configuration.getInt("dfs.replication", 1);
        boolean pair = ports.size() == 2;
        MiniDFSCluster.Builder builder = new MiniDFSCluster.Builder(configuration)
            .numDataNodes(0).format(format).manageNameDfsDirs(format || !pair);
        if (pair) {
            MiniDFSNNTopology.NSConf names = new MiniDFSNNTopology.NSConf("pair");
            for (int i = 0; i < 2; i++) {
                names.addNN(new MiniDFSNNTopology.NNConf("nn" + (i + 1)).setHttpPort(ports.get(i)));
            }
            builder.nnTopology(new MiniDFSNNTopology().addNameservice(names));
        } else {
            builder.nameNodeHttpPort(ports.get(0));
        }
        cluster = builder.build(); // without DataNodes it takes the replication down to 0
        for (int i = 0; i < datanodes; i++) {
            startDataNode(i);
        }
        if (pair) {
            cluster.transitionToActive(0);
        }
        cluster.waitActive();
    }

    private String answer(String[] words) throws Exception {
        int number = words.length > 1 && words[1].matches("\\d+") ? Integer.parseInt(words[1]) : 0;
        switch (words[0]) {
            case "active" -> {
                if (cluster.getNameNode(1 - number) != null) {
                    cluster.transitionToStandby(1 - number);
                }
                cluster.transitionToActive(number);
            }
            case "stop-namenode" -> cluster.shutdownNameNode(number);
            case "stop-datanode" -> cluster.stopDataNode(number);
            case "safemode" -> {
                FSNamesystem names = cluster.getNamesystem(0);
                var action = words[1].equals("on") ? "SAFEMODE_ENTER" : "SAFEMODE_LEAVE";
                cluster.getNameNodeRpc(0).setSafeMode(
                    org.apache.hadoop.hdfs.protocol.HdfsConstants.SafeModeAction.valueOf(action), false);
            }
            case "rpc" -> {
                return "ok " + cluster.getNameNodePort(number);
            }
            default -> {
                return "error no such command: " + words[0];
            }
        }
        return "ok";
    }

    public static void main(String[] arguments) throws Exception {
        Cluster self = new Cluster();
        self.start(arguments);
        System.out.println("ready");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null && !line.equals("quit"); line = lines.readLine()) {
            String said;
            try {
                said = self.answer(line.split(" "));
            } catch (Exception e) {
                said = "error " + e.toString().replace('\n', ' ');
            }
            System.out.println(said);
        }
        // No orderly end: it would take seconds, and a test's cluster is thrown away.
        Runtime.getRuntime().halt(0);
    }
}
